"""From a torch module to a published bundle: the only code that imports torch."""
