"""Times upsamplers on the user's own device: ``upnas bench upsamplers``.

``shapes`` says what is measured, ``cases`` what one measurement is, ``rounds`` how it is timed,
``naive`` what it is compared with; ``records`` is the result, ``tables``, ``markdown`` and ``plot``
show it.
"""
