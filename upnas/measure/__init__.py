"""What a candidate costs: latency, peak memory, parameters and whether it exports.

Needs no training. Import from the modules: ``costs`` puts everything together, ``latency``,
``memory`` and ``export`` do one measurement each, ``gate`` keeps a device for one process while
it is timed, and ``environment`` says what it was measured on.
"""
