"""The style sheet of a report: dark and light, wide and narrow, on a screen and on paper."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--soft:#57606a;--line:#d3d9df;--card:#f5f7f9;--link:#0757a3;
--warn:#8a4b00;--warnback:#fff4e0;--heat:105 172 235;
--c0:#0069b4;--c1:#c44b00;--c2:#007a57;--c3:#a8437f;--c4:#8a6200;--c5:#1f7fa8;--c6:#5b3fb0;--c7:#5f6670}
@media (prefers-color-scheme:dark){:root{--back:#0e1318;--text:#e5e9ed;--soft:#a3adb8;--line:#303942;--card:#171d24;
--link:#79bdff;--warn:#ffc46b;--warnback:#33270f;--heat:22 88 150;
--c0:#58aef5;--c1:#ff9455;--c2:#3ccf9f;--c3:#f08cc8;--c4:#e9bd4b;--c5:#7fd4ef;--c6:#b7a0ff;--c7:#aeb6bf}}
*{box-sizing:border-box}
html{background:var(--back);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1220px;padding:1.4rem 1.2rem 4rem;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .2rem}
h2{font-size:1.25rem;margin:2.4rem 0 .7rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0;max-width:78ch}
a{color:var(--link)}
.soft,figcaption{color:var(--soft)}
nav{margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:1.2rem 0 0;padding:0}
.numbers div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.numbers dt{color:var(--soft);font-size:.85rem}
.numbers dd{margin:0;font-size:1.35rem;font-weight:600;line-height:1.3}
.numbers small{display:block;font-size:.8rem;font-weight:400;color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem 1.4rem;
align-items:start}
figure{margin:0}.figures>*{min-width:0}
figcaption{font-size:.88rem;margin:.1rem 0 .3rem}
figcaption b{color:var(--text);font-size:1rem}
svg{display:block;width:100%;height:auto;max-width:44rem}
svg text{fill:var(--soft);font-size:12px;font-family:inherit}
svg .label{fill:var(--text)}
svg .end{text-anchor:end}svg .middle{text-anchor:middle}
svg path,svg polyline{fill:none}
.grid{stroke:var(--line);stroke-width:1}.frame{stroke:var(--soft);stroke-width:1}
.guess{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}
.curve{stroke-width:1.9;stroke-linejoin:round}.dashed{stroke-dasharray:6 4}
.bar{fill:var(--c0)}.gap{fill:none;stroke:var(--c1);stroke-width:1.6;stroke-dasharray:3 2}
.c0{stroke:var(--c0);--own:var(--c0)}.c1{stroke:var(--c1);--own:var(--c1)}.c2{stroke:var(--c2);--own:var(--c2)}
.c3{stroke:var(--c3);--own:var(--c3)}.c4{stroke:var(--c4);--own:var(--c4)}.c5{stroke:var(--c5);--own:var(--c5)}
.c6{stroke:var(--c6);--own:var(--c6)}.c7{stroke:var(--c7);--own:var(--c7)}
.dot{fill:var(--own);stroke:none}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;margin:.2rem 0 .6rem;padding:0;font-size:.85rem}
.legend li{min-width:0;max-width:100%}
.legend i{display:inline-block;width:1.5rem;border-top:3px solid var(--own);vertical-align:middle;margin-right:.4rem}
.legend .dashed{border-top-style:dashed}
.wide{overflow-x:auto;margin:.5rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.22rem .7rem .22rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600}
tbody th{font-weight:500;max-width:16rem}
.right{text-align:right;white-space:nowrap}
.confusion td,.confusion thead th.name{vertical-align:bottom;font-weight:500}
.confusion .name span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.confusion tbody th{white-space:nowrap}
.confusion td{border:1px solid var(--back);background:rgb(var(--heat)/var(--s,0))}
.confusion td.none{color:var(--soft)}
.pixels{image-rendering:pixelated}
.heat{background:var(--card);width:100%;max-width:36rem;border:1px solid var(--line)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr));gap:.9rem;padding:0;margin:.6rem 0;
list-style:none}
.cards li{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem;font-size:.85rem;
min-width:0;break-inside:avoid}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.4rem;margin-bottom:.4rem}
.pair img,.pair span{width:100%;aspect-ratio:1;object-fit:contain;background:var(--back)}
.pair img:only-child{grid-column:1/3;max-width:50%}
.maps img{width:100%;max-width:34rem;height:auto;background:var(--card)}
pre,code{font:.85rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere;max-width:100%}
.warn{background:var(--warnback);color:var(--warn);border-radius:.4rem;padding:.45rem .8rem;margin:.5rem 0;
max-width:none}
summary{cursor:pointer;color:var(--link)}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:560px){html{font-size:15px}body{padding:1rem .8rem 3rem}.numbers dd{font-size:1.15rem}
.numbers{grid-template-columns:1fr 1fr}svg text{font-size:16px}.cards{grid-template-columns:1fr}}
@media print{:root{color-scheme:light}body{max-width:none;padding:0}nav{display:none}h2{break-after:avoid}
figure,tr{break-inside:avoid}.wide{overflow:visible}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
