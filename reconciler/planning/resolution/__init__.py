"""From what was declared to what the host shall hold: identities, names, addresses, images."""
