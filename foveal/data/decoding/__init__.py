"""Image files as arrays: the second stage of reading, in which files are decoded into what a network takes.

members.py        addresses of images that lie inside of other files
pixels.py         pixels of any kind as bytes: wide numbers, transparency, ICC profiles
images.py         single image files: headers, decoding at reduced scale
preprocessing.py  how an image of any kind becomes what a network takes; stands in model files
image_array.py    ImageArray: image files as an array whose rows are decoded when they are read
storage.py        where decoded images are kept: in memory, in a mapped file, or nowhere
"""
