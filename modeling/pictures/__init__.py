"""What pictures are made of, wherever they are shown: colours, marks on enlarged images, and PNG
files.
"""
