"""What sending and receiving over a network take: addresses, feeds that never wait, servers, OpenIGTLink."""
