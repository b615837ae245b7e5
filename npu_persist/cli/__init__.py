"""The command `npu-persist`: one file for each group of verbs, with their arguments and the functions that run them."""
