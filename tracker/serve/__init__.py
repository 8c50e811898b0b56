"""`tracker serve`: a local web page that tracks a target in an uploaded video.

- `app`: the HTTP interface.
- `guard`, `limits`: which requests and uploads are accepted.
- `jobs`, `work`: the queue of videos, and the work on each.
- `store`: uploaded and written files.
- `sample`: the sample video.
- `page/`: the page itself.
"""
