"""Where code runs: isolated or not at all.

`Bubblewrap.start` makes a `Box`, one isolated machine with `/mnt/data`; `inside` and `executor` are what runs in it.
The room is given bytes and gives bytes: it knows no files of the API, no runs and no threads.
"""
