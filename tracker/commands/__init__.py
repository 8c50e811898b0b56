"""The commands of `tracker`, one file each."""
