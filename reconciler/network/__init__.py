"""The kernel's network: netlink, nftables, taps, sysctls. Observes and changes; decides nothing."""
