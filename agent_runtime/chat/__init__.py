"""`torpor chat`: a person and an agent with tools, in a terminal or through a pipe.

    terminal / piped ── exchange ── graph ── asking ── the service
          │                 └ tools, in this process, through the service's ledger
          └ commands: forks, rewinding, other chats

All that a chat is lives in its session: this program may be ended at any moment, on any machine.
"""
