"""What `bench` measures, its numbers and its pictures.

The promise: each configuration is measured in a process of its own that does what its user's process would, one at a
time; nothing of it is left when the measuring ends, however it ends.

Not called `bench`, because the front door's `npu_persist.bench` is a function. This file imports nothing, for the
process that is measured comes by here.

Numbers from a machine that does other things too are only worth what can be seen of their spread. Hence: a comparison
alternates between the configurations in short rounds, takes each ratio within a round, and shows the lowest and highest
beside the median; where they lie on both sides of 1, no difference was found, whatever the medians say. Run longer, or
on a quieter machine, before believing a ratio close to 1. Two things it cannot cancel: configurations that wait have
their models in memory, on the device too; and a device that throttles is slower for whoever comes after, for which
every second round goes through the configurations backwards.
"""
