"""One compiled artifact: its description, its blob, attaching it to a bundle, and the machines it runs on."""
