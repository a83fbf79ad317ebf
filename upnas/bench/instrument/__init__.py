"""Is the instrument to be trusted? ``upnas bench measure`` measures that.

``run`` makes the records of ``records``: the same candidates twice, beside trainings that respect
the device's gate, under load that does not and against other timers, predicted and measured, and
memory counted in several ways. ``neighbour`` is the load, ``rivals`` are the other timers.
"""
