package org.confide.spark;

import java.io.IOException;
import java.net.InetAddress;
import java.net.Socket;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import javax.net.SocketFactory;

/** Sockets connected to one unix socket path, for Py4J's calls from the JVM into the program; its TCP addresses are ignored. */
final class UnixSocketFactory extends SocketFactory {
    private final Path path;

    UnixSocketFactory(Path path) {
        this.path = path;
    }

    @Override
    public Socket createSocket(InetAddress ignored, int port) throws IOException {
        SocketChannel channel = SocketChannel.open(StandardProtocolFamily.UNIX);
        try {
            channel.connect(UnixDomainSocketAddress.of(path));
        } catch (IOException refused) {
            channel.close();
            throw refused;
        }
        return new UnixSocket(channel);
    }

    @Override
    public Socket createSocket(String host, int port) throws IOException {
        return createSocket((InetAddress) null, port);
    }

    @Override
    public Socket createSocket(String host, int port, InetAddress local, int localPort) throws IOException {
        return createSocket((InetAddress) null, port);
    }

    @Override
    public Socket createSocket(InetAddress host, int port, InetAddress local, int localPort) throws IOException {
        return createSocket((InetAddress) null, port);
    }
}
