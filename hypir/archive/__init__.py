"""A folder of photos, or a film, restored by any workflow on all GPUs of one machine or many.

command     `python -m hypir archive`: the options
run         one run from listing to report; the only writer of the manifest
manifest    what is known of every photo, in SQLite
places      folders on any filesystem that pyarrow or fsspec opens
workflow    the saved workflow as a prompt for one photo
photo       a photo as the host reads it, and the result with what the photo carried
stages      read, restore, write: what Ray Data runs
comfyui     finding and starting a ComfyUI
start       the process of a ComfyUI; guard ends it with its owner
server      the HTTP API of a started ComfyUI
engine      Ray
progress    the line on the terminal

Ray Data does the distribution: it reads, balances, retries and keeps what waits within bounds. The
host does the restoring, so the results are those of its page. Like hypir.train, this package has
libraries of its own and nothing in hypir imports it but the command line.
"""
