#!/usr/bin/env python3
"""Checksums of pictures as Pillow decodes them, for the test "[pillow]".

Usage: pillow_checksums.py DIR > checksums; VVTQ_CHECKSUMS=checksums build/tests/vvtq_tests "[pillow]"
A line a picture below DIR: CRC-32 of Image.open(picture).convert('RGB').tobytes(), height, width, path.
"""
import os
import sys
import zlib

from PIL import Image

for folder, _, files in sorted(os.walk(sys.argv[1], followlinks=True)):
    for file in sorted(files):
        path = os.path.abspath(os.path.join(folder, file))
        image = Image.open(path).convert('RGB')
        print(zlib.crc32(image.tobytes()), image.height, image.width, path)
