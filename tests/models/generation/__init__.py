"""Small language models of many architectures, with random weights."""
