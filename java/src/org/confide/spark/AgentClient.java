package org.confide.spark;

import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;

/**
 * Asks this node's agent over its unix socket: one JSON object a line, there and back.
 *
 * <p>Keys come this way and no other: they are never in Spark's configuration, the environment or an argument. The agent knows by
 * SO_PEERCRED who asks; who may have which key is its decision. Anything but a well-formed positive answer is an exception.
 */
final class AgentClient {
    static final String SOCKET_PROPERTY = "confide.agent.socket";
    /** Cap on one answer, in bytes: the longest is a range of a remote input, in base64. */
    private static final int MAX_LINE = 2 * RemoteInput.MOST;
    private static final int PART = 4096;
    private static final int LARGE_PART = 1 << 18;

    private static final ObjectMapper JSON =
            JsonMapper.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                    .build();
    private static final AgentClient HERE = new AgentClient(System.getProperty(SOCKET_PROPERTY));

    private final String socket;
    private final ConcurrentLinkedQueue<SocketChannel> idle = new ConcurrentLinkedQueue<>();

    private AgentClient(String socket) {
        this.socket = socket;
    }

    /** The client of this JVM's node. */
    static AgentClient here() {
        return HERE;
    }

    /** Asks {@code op} with string fields and returns the answer. The agent's refusal becomes an {@link AgentRefusal}. */
    JsonNode call(String op, Map<String, ?> fields) throws IOException {
        if (socket == null) {
            throw new IOException("confide: no agent: system property " + SOCKET_PROPERTY + " is not set");
        }
        ObjectNode request = JSON.createObjectNode().put("op", op);
        fields.forEach((name, value) -> request.set(name, JSON.valueToTree(value)));
        byte[] line = (JSON.writeValueAsString(request) + "\n").getBytes(java.nio.charset.StandardCharsets.UTF_8);
        return checked(op, JSON.readTree(exchange(line)));
    }

    private static JsonNode checked(String op, JsonNode answer) throws IOException {
        if (answer == null || !answer.isObject() || !answer.path("ok").isBoolean()) {
            throw new IOException("confide: the agent's answer to " + op + " is not an answer");
        }
        if (!answer.get("ok").booleanValue()) {
            JsonNode error = answer.path("error");
            throw new AgentRefusal(error.path("code").asText("unavailable"), error.path("message").asText("refused"), error.path("hint").asText(""));
        }
        return answer;
    }

    private byte[] exchange(byte[] line) throws IOException {
        SocketChannel channel = idle.poll();
        if (channel == null) {
            channel = SocketChannel.open(StandardProtocolFamily.UNIX);
            channel.connect(UnixDomainSocketAddress.of(Path.of(socket)));
        }
        try {
            ByteBuffer out = ByteBuffer.wrap(line);
            while (out.hasRemaining()) {
                channel.write(out);
            }
            byte[] answer = readLine(channel);
            idle.add(channel);
            return answer;
        } catch (IOException broken) {
            channel.close();
            throw broken;
        }
    }

    private static byte[] readLine(SocketChannel channel) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream(512);
        ByteBuffer part = ByteBuffer.allocate(PART);
        while (line.size() <= MAX_LINE) {
            part.clear();
            int count = channel.read(part);
            if (count < 0) {
                throw new IOException("confide: the agent closed its socket");
            }
            line.write(part.array(), 0, count);
            if (count > 0 && part.array()[count - 1] == '\n') {
                return line.toByteArray();
            }
            if (!part.hasRemaining() && part.capacity() < LARGE_PART) { // a long one
                part = ByteBuffer.allocate(LARGE_PART);
            }
        }
        throw new IOException("confide: the agent's answer is too long");
    }
}
