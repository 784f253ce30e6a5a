"""What the files say: their text, cut into passages, and the search in it."""
