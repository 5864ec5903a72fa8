"""What is fetched by its name and checked by its checksum: data sets, and weights of other people.

download.py    data sets that have a name: where they are looked for, and fetched with a checksum
pretrained.py  weights of other people by name, and the preprocessing that stored weights expect
hub.py         weights from the Hugging Face hub
"""
