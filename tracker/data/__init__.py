"""Data sets and training pairs.

- `datasets`: readers of GOT-10k, OTB, VOT, LaSOT, TrackingNet, ImageNet-VID, plain folders. A new data set goes here.
- `otb`, `otb_lists`, `imagenet_vid`, `annotations`: the file formats of those data sets.
- `sequence`: one annotated sequence.
- `prepare`, `archive`: write the crops of a data set to one file, and read that file.
- `pairs`, `stills`: training pairs, from two frames of a sequence or from two views of one picture.
- `crops`, `augment`: crop the frames of a pair, and augment the crops.
- `synthetic`, `pictures`: synthetic videos, and the pictures in them.
"""
