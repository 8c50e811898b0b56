"""Files: frames in, videos, boxes, tables and plots out."""
