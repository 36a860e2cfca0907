package org.confide.spark;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.DelegateToFileSystem;

/** {@code file://} for Hadoop's newer interface, as guarded as for the older one: checkpoints of streams come this way. */
public final class EncryptedOnlyAbstractFileSystem extends DelegateToFileSystem {
    public EncryptedOnlyAbstractFileSystem(URI uri, Configuration conf) throws IOException, URISyntaxException {
        super(uri, new EncryptedOnlyFileSystem(), conf, "file", false);
    }
}
