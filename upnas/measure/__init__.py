"""What a network costs on a target: latency, memory, whether it exports. Needs no training.

``instrument`` puts everything into one record; ``timing``, ``memory``, ``export`` and ``stages``
measure; ``runtimes`` run networks on ``targets``; ``gate`` keeps a device for one process while
it times something; ``cache`` keeps what was measured, by ``fingerprint`` of the machine;
``environment`` and ``conditions`` say what it was measured on and what else ran. Import from the
modules.
"""
