package org.confide.spark;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.ServerSocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import javax.net.ServerSocketFactory;

/** Server sockets on one unix socket path, for Py4J, which asks a factory for its socket and gives it a TCP address to ignore. */
final class UnixServerSocketFactory extends ServerSocketFactory {
    private final Path path;

    UnixServerSocketFactory(Path path) {
        this.path = path;
    }

    @Override
    public ServerSocket createServerSocket() throws IOException {
        return new UnixServerSocket(path);
    }

    @Override
    public ServerSocket createServerSocket(int port) throws IOException {
        throw new IOException("confide: this gateway has no TCP port");
    }

    @Override
    public ServerSocket createServerSocket(int port, int backlog) throws IOException {
        throw new IOException("confide: this gateway has no TCP port");
    }

    @Override
    public ServerSocket createServerSocket(int port, int backlog, InetAddress address) throws IOException {
        throw new IOException("confide: this gateway has no TCP port");
    }

    /** The part of ServerSocket that Py4J uses. */
    private static final class UnixServerSocket extends ServerSocket {
        private final ServerSocketChannel channel = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
        private final Path path;

        UnixServerSocket(Path path) throws IOException {
            this.path = path;
        }

        @Override
        public void bind(SocketAddress ignored, int backlog) throws IOException {
            // Bound under another name first: PySpark may connect as soon as the final name exists.
            Path unready = path.resolveSibling(path.getFileName() + ".new");
            channel.bind(UnixDomainSocketAddress.of(unready));
            Files.move(unready, path);
        }

        @Override
        public Socket accept() throws IOException {
            return new UnixSocket(channel.accept());
        }

        @Override
        public void setReuseAddress(boolean on) {}

        @Override
        public synchronized void setSoTimeout(int timeout) {}

        @Override
        public int getLocalPort() {
            return 0;
        }

        @Override
        public boolean isClosed() {
            return !channel.isOpen();
        }

        @Override
        public void close() throws IOException {
            channel.close();
        }
    }
}
