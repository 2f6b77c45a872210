"""Clean technical text, full of codes that are no personal data: every line is drawn from a form and a fixed seed."""

import random
import uuid

__all__ = ["technical_lines"]

_FIXED = """
The service listens on 127.0.0.1:8080 and on [::1]:8080.
The default gateway of the test network is 192.168.1.1 with netmask 255.255.255.0.
Pods get addresses from 10.244.0.0/16; services from 10.96.0.0/12.
Upgrade to version 2.31.1.4 before the end of the quarter.
The firmware 4.12.0.1 fixes the watchdog; 4.12.0.0 does not.
ISBN 978-3-16-148410-0 is the second edition, ISBN 0-306-40615-2 the first.
The password is stored as a salted hash and never in plain text.
The password must have at least 12 characters and one digit.
A password is case-sensitive; the default password is printed on the label.
Reset the password with `passwd --expire` and log in again.
The API key is sent in the Authorization header of each request.
Set the secret key in the environment before the server starts.
The token is valid for 3600 seconds and is refreshed after half of them.
Pin 13 is connected to GPIO4, pin 14 to GPIO5.
Clone it with git clone git@github.com:example/project.git and run make.
Enable getty@tty1.service and restart systemd-journald.socket.
Install @types/node@20.11.5 and eslint@8.57.0.
The decorator @app.route takes the path and the methods.
The matrix has 4096 columns and 1048576 rows; the checksum is CRC32 0x1C291CA3.
Port 5432 is open to the subnet only; port 22 is closed since 2024-01-15.
The measured latency was 12.345 ms at 1000 requests per second.
RFC 2606 reserves names; RFC 5737 reserves addresses; see section 1.2.3.4 of the manual.
The part number is 4711-0815-2342, the drawing 2023-114-07.
The resistor is 4.7 kOhm, the capacitor 100 nF, tolerance 5 %.
CVE-2024-31497 affects PuTTY 0.68 to 0.80; CVE-2021-44228 affects log4j 2.0 to 2.14.1.
The ratio is 16:9, the score 3:2, the time 12:34:56.789.
Coordinates 52.520008, 13.404954 are in WGS 84.
The article no. 12345678 replaces 12345670; both have the EAN 4006381333931.
Call std::vector::reserve before the loop; a::b::c is a scope.
The range 1000-2000 is reserved, 2001-2999 is free.
Ticket 20240115-0042 was merged into 20240114-0007.
Offsets 0x0000 to 0xFFFF are mapped; the magic number is 0xDEADBEEF.
The unit ran for 1234567 hours; 9876543210 bytes were read.
The mean of 3.14159265358979 and 2.71828182845905 was used.
MAC 00:1A:2B:3C:4D:5E is the bridge's, 00-1a-2b-3c-4d-5f the host's.
Set kernel.pid_max=4194304 and vm.max_map_count=262144.
The release 2024.03.15.1 is tagged, 2024.03.16.1 is not.
The certificate's serial number is 04:00:00:00:00:01:15:4b:5a:c3:94.
Use docker pull registry.example.org/app:1.2.3 and start it with -p 8080:80.
The key is case-insensitive; the access token has 40 characters.
"""
_FORMS = (
    lambda r: f"Request {uuid.UUID(int=r.getrandbits(128))} was handled in {r.randrange(1, 999)} ms.",
    lambda r: f"The digest is sha256:{r.getrandbits(256):064x}.",
    lambda r: f"Commit {r.getrandbits(160):040x} fixes the race; {r.getrandbits(28):07x} brought it.",
    lambda r: f"md5 {r.getrandbits(128):032x} differs from {r.getrandbits(128):032X}.",
    lambda r: f"At {r.randrange(1_600_000_000, 1_800_000_000)} the worker stopped.",
    lambda r: f"At {r.randrange(1_600_000_000_000, 1_800_000_000_000)} ms the lease ended.",
    lambda r: f"trace_id={r.getrandbits(128):032x} span={r.getrandbits(64):016x} at {r.randrange(10**18, 10**19)}",
    lambda r: f"Order number {r.randrange(10**15, 10**16)} was shipped on 2024-0{r.randrange(1, 9)}-1{r.randrange(9)}.",
    lambda r: f"Order no. {r.randrange(10**9, 10**10)} and invoice 2024-{r.randrange(10**5, 10**6)} belong together.",
    lambda r: f"Version {r.randrange(9)}.{r.randrange(30)}.{r.randrange(9)}.{r.randrange(300)}.",
    lambda r: f"2024-05-{r.randrange(10, 28)}T12:01:{r.randrange(10, 59)}.{r.randrange(10**6):06d}Z job 7",
    lambda r: f"The snapshot id is {r.randrange(10**17, 10**18)}, its size {r.randrange(10**9, 10**11)} bytes.",
    lambda r: f"The counter went from {r.randrange(10**8):,} to {r.randrange(10**8, 10**9):,} in a day.",
    lambda r: f"Serial {r.choice('ABC')}{r.randrange(10**7, 10**8)} has board {r.randrange(10**11, 10**12)}.",
    lambda r: f"The model weights are in {r.getrandbits(64):016x}/model-0000{r.randrange(9)}-of-00009.safetensors.",
    lambda r: f"The build {r.randrange(10**7, 10**8)} took {r.randrange(60)}:{r.randrange(10, 59)} minutes.",
)  # fmt: skip


def technical_lines(count: int = 200) -> list[str]:
    """Return ``count`` lines."""
    source = random.Random(7)
    lines = _FIXED.strip().splitlines()
    while len(lines) < count:
        lines.append(_FORMS[len(lines) % len(_FORMS)](source))
    return lines
