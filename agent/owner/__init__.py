"""The owner of the machine stays its master: when it takes work, and when what runs stands still."""
