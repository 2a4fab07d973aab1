"""`session-lock top`: a mapping as it is now, looked at each second, with keys for what people do about it.

From the command to the screen, in the order in which things happen: `command`, `source` (the one connection, opened anew when it
breaks), `app` (what is done each second and at each key), `screens` (what is asked first, and shown in between), `wishes` (what keys
ask of the database), `sheet` (what is seen), made of `picture` (lines, for any width) and `lists` (the two that one can go through),
in the colours of `palette`.
"""
