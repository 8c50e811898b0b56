"""Data sets, and what training makes of them.

- `datasets`: readers of GOT-10k, OTB, VOT, LaSOT, TrackingNet, ImageNet-VID, plain folders. A new data set goes here.
- `otb`, `otb_lists`, `imagenet_vid`, `annotations`: the file formats of those data sets.
- `sequence`: one annotated sequence.
- `prepare`, `archive`: cut the crops of a data set into one file, and read that file.
- `pairs`, `stills`: training pairs, from two frames of a sequence or from two views of one picture.
- `crops`, `augment`: cut the crops of a pair, and vary them at random.
- `synthetic`, `pictures`: synthetic videos, and the pictures that they show.
"""
