#!/usr/bin/env python3
"""The GDB server on real sockets and pipes: clients that misbehave, go away, or come after one another."""
import array
import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import termios

from support import SERVE, Case, ask, guest, is_closed, main, packet, receive_packet

GREETING = b"QC1"


class Addresses(Case):
    def test_tcp_on_any_free_port(self):
        server = self.server("64", "guest64", "127.0.0.1:0")
        host, port = server.name.split(":")
        self.assertEqual(host, "127.0.0.1")
        self.assertGreater(int(port), 0)
        with server.connect() as s:
            self.assertEqual(ask(s, "qC"), GREETING)

    def test_without_a_host_only_this_machine_can_connect(self):
        self.assertTrue(self.server("64", "guest64", ":0").name.startswith("127.0.0.1:"))

    def test_ipv6(self):
        if not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("no IPv6 here")
        server = self.server("64", "guest64", "[::1]:0")
        self.assertTrue(server.name.startswith("[::1]:"))
        with server.connect() as s:
            self.assertEqual(ask(s, "qC"), GREETING)

    def test_a_unix_socket_is_for_its_owner_alone(self):
        server = self.server()
        self.assertEqual(stat.S_IMODE(os.stat(server.name).st_mode), 0o600)

    def test_a_stale_unix_socket_is_replaced_and_nothing_else(self):
        server = self.server()
        directory = os.path.dirname(server.name)
        stale = os.path.join(directory, "stale")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(stale)
        with self.server("64", "guest64", "unix:" + stale).connect() as s:
            self.assertEqual(ask(s, "qC"), GREETING)
        file = os.path.join(directory, "file")
        with open(file, "w") as f:
            f.write("precious")
        self.assert_refused("unix:" + file, "Address already in use")
        self.assert_refused("unix:" + server.name, "Address already in use")
        with open(file) as f:
            self.assertEqual(f.read(), "precious")
        self.assert_a_busy_server_keeps_its_socket(os.path.join(directory, "busy"))

    def assert_a_busy_server_keeps_its_socket(self, path):
        with contextlib.ExitStack() as stack:
            busy = stack.enter_context(socket.socket(socket.AF_UNIX))
            busy.bind(path)
            busy.listen(0)
            with self.assertRaises(BlockingIOError):
                for _ in range(100):
                    s = stack.enter_context(socket.socket(socket.AF_UNIX))
                    s.setblocking(False)
                    s.connect(path)
            self.assert_refused("unix:" + path, "Address already in use")
            self.assertTrue(os.path.exists(path))

    def test_wrong_addresses_are_refused(self):
        for address in ("", "localhost", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:12x", "127.0.0.1:-1", ":" + "9" * 30):
            self.assert_refused(address, "is not HOST:PORT or unix:PATH")
        self.assert_refused("no-such-host.invalid:0", "look up no-such-host.invalid")
        self.assert_refused("unix:", "must have 1 to")
        self.assert_refused("unix:/" + "x" * 200, "must have 1 to")

    def assert_refused(self, address, why):
        result = subprocess.run([SERVE, address, "64", guest("guest64.bin")], stdout=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn(why, result.stdout)


class Misbehaviour(Case):
    def assert_next_is_served(self, server, end="end: disconnected"):
        self.assertEqual(server.wait_for("end:"), end)
        with server.connect() as s:
            self.assertEqual(ask(s, "qC"), GREETING)

    def test_garbage(self):
        server = self.server("64", "guest64", None, "clients", "99")
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\0" * 100000):
            with server.connect() as s:
                try:
                    s.sendall(garbage)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                self.assertTrue(is_closed(s))
            self.assert_next_is_served(server)
            server.wait_for("end:")

    def test_disconnect_in_mid_packet(self):
        server = self.server("64", "guest64", None, "clients", "99")
        for part in (b"", b"$", b"$qC", b"$qC#", b"$qC#b", b"+$g#67$m0,"):
            with server.connect() as s:
                s.sendall(part)
            self.assert_next_is_served(server)
            server.wait_for("end:")

    def test_half_a_packet_is_not_waited_for_for_ever(self):
        server = self.server("64", "guest64", None, "clients", "99", "timeout", "200")
        for part in (b"", b"$", b"$qC#b4$qC", b"+"):
            with server.connect() as s:
                s.sendall(part)
                self.assertTrue(is_closed(s))
            self.assert_next_is_served(server)
            server.wait_for("end:")

    def test_an_idle_client_is_not_dropped(self):
        server = self.server("64", "guest64", None, "clients", "2", "timeout", "1000")
        with server.connect() as idle:
            self.assertEqual(ask(idle, "qC"), GREETING)
            idle.settimeout(1.2)
            with self.assertRaises(socket.timeout):
                idle.recv(100)
            idle.settimeout(60)
            # A new packet has its full time, however long it was quiet before.
            idle.sendall(b"$q")
            self.wait_until_read(idle)
            idle.sendall(b"C#b4")
            self.assertEqual(receive_packet(idle), GREETING)

    @staticmethod
    def wait_until_read(s):
        unread = array.array("i", [1])
        while unread[0]:
            fcntl.ioctl(s, termios.TIOCOUTQ, unread)
            os.sched_yield()

    def test_a_client_that_does_not_read_is_dropped(self):
        server = self.server("64", "guest64", None, "clients", "99", "timeout", "200")
        with server.connect() as s:
            try:
                for _ in range(100000):
                    s.sendall(packet("m100000,2000"))
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertEqual(server.wait_for("end:"), "end: disconnected")

    def test_a_flood_during_a_run(self):
        server = self.server("64", "live64", None, "live", "clients", "99")
        with server.connect() as s:
            s.sendall(packet("vCont;c"))
            server.wait_for("running")
            try:
                for _ in range(100000):
                    s.sendall(packet("g"))
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertTrue(is_closed(s))
        self.assert_next_is_served(server)

    def test_going_away_during_a_run_ends_it(self):
        server = self.server("64", "live64", None, "live", "clients", "99")
        with server.connect() as s:
            s.sendall(packet("vCont;c"))
            server.wait_for("running")
        self.assert_next_is_served(server)

    def test_a_packet_is_acknowledged_before_it_is_obeyed(self):
        server = self.server("64", "live64", None, "live")
        with server.connect() as s:
            s.sendall(packet("vCont;c"))
            self.assertEqual(s.recv(1), b"+")
            s.sendall(b"\x03")
            self.assertTrue(receive_packet(s).startswith(b"T02"))

    def test_ctrl_c_during_a_run_loses_no_other_byte(self):
        server = self.server("64", "live64", None, "live")
        with server.connect() as s:
            s.sendall(packet("vCont;c"))
            server.wait_for("running")
            s.sendall(b"+\x03" + packet("qC"))
            self.assertTrue(receive_packet(s).startswith(b"T02"))
            self.assertEqual(receive_packet(s), GREETING)
            s.sendall(packet("vCont;c"))
            server.wait_for("running")
            s.sendall(packet("qC") + b"\x03")
            self.assertTrue(receive_packet(s).startswith(b"T02"))
            self.assertEqual(receive_packet(s), GREETING)


class Ends(Case):
    def test_points_go_with_their_client(self):
        server = self.server("64", "guest64", None, "clients", "2")
        for content in ("D", "x"):
            with server.connect() as s:
                self.assertEqual(ask(s, "Z0,100000,1"), b"OK")
                s.sendall(packet(content))
        self.assertEqual(server.wait_for("end:"), "end: detached")
        self.assertEqual(server.line(), "end: disconnected")
        server.process.wait()
        self.assertEqual(server.process.stdout.read(), "")

    def test_each_way_to_leave_is_told(self):
        server = self.server("64", "guest64", None, "clients", "3")
        for content, answer, end in (("D", b"OK", "detached"), ("vKill;1", b"OK", "killed"), ("k", b"", "killed")):
            with server.connect() as s:
                s.sendall(packet(content))
                if answer:
                    self.assertEqual(receive_packet(s), answer)
                self.assertTrue(is_closed(s))
            self.assertEqual(server.wait_for("end:"), "end: " + end)

    def test_stop_ends_a_run(self):
        server = self.server("64", "live64", None, "live")
        with server.connect() as s:
            s.sendall(packet("vCont;c"))
            server.wait_for("running")
            server.process.send_signal(signal.SIGTERM)
            self.assertTrue(is_closed(s))
            self.assertEqual(server.wait_for("end:"), "end: stopped")

    def test_stop_ends_waiting_for_a_packet_and_for_a_client(self):
        server = self.server("64", "guest64", None, "clients", "9")
        with server.connect() as s:
            self.assertEqual(ask(s, "qC"), GREETING)
            server.process.send_signal(signal.SIGTERM)
            self.assertTrue(is_closed(s))
            self.assertEqual(server.wait_for("end:"), "end: stopped")
            server.wait_for("stopped while waiting")


class Pipes(Case):
    def start(self):
        process = subprocess.Popen([SERVE, "-", "64", guest("guest64.bin")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        return process

    def test_standard_input_and_output(self):
        output, log = self.start().communicate(b"+$qC#b4+$D#44", timeout=60)
        self.assertEqual(output, b"+$QC1#c5+$OK#9a")
        self.assertIn(b"end: detached", log)

    def test_a_broken_pipe_is_a_client_that_left(self):
        process = self.start()
        process.stdout.close()
        process.stdin.write(b"$qC#b4" * 10)
        process.stdin.flush()
        self.assertIn(b"end: disconnected", process.stderr.read())
        self.assertEqual(process.wait(60), 0)
        process.stdin.close()
        process.stderr.close()


if __name__ == "__main__":
    main()
