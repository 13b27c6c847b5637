"""Where endpoints come from, beside the settings: files and config centres, watched while the program runs."""
