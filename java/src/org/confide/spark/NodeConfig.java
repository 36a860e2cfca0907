package org.confide.spark;

import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.File;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Map;

/** What a JVM is started with: a JSON file of public values that the agent wrote (confide.jobs.engines.spark). */
final class NodeConfig {
    private final JsonNode values;

    private NodeConfig(JsonNode values) {
        this.values = values;
    }

    /** Reads the file and sets its Spark properties as system properties, as spark-submit would. */
    static NodeConfig load(String file) throws IOException {
        JsonNode values = JsonMapper.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build().readTree(new File(file));
        for (Map.Entry<String, JsonNode> property : values.path("properties").properties()) {
            if (!property.getKey().startsWith("spark.")) {
                throw new IOException("confide: not a Spark property: " + property.getKey());
            }
            System.setProperty(property.getKey(), property.getValue().asText());
        }
        return new NodeConfig(values);
    }

    String text(String name) throws IOException {
        if (!values.path(name).isTextual()) {
            throw new IOException("confide: the node's configuration has no " + name);
        }
        return values.get(name).textValue();
    }

    Path path(String name) throws IOException {
        return Path.of(text(name));
    }
}
