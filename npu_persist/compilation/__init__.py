"""From a bundle's graph to a compiled model and a compiled artifact: in this process, or in a separate one."""
