"""What becomes of files: how their bytes come to be kept, how uploads grow into files, and when they go."""
