"""Who may reach whom by the rules of all networks, and the packets that show it."""
