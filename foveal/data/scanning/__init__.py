"""Which images there are: the first stage of reading, in which files are listed, headers read and parts chosen.

listing.py      which images a folder holds: classes, parts, what is left out
tables.py       tables of images: CSV and JSON lines
shards.py       images in tar shards, as WebDataset names them
parquet.py      images in parquet files, as Hugging Face's data sets are stored
splits.py       parts by the seed, with the same share of each class, and whole groups
membership.py   which part each image file was in when a run began
image_files.py  ImageFiles: the image files of a data set before and while they are decoded
scan.py         `scan`: from any of these to ImageFiles
"""
