package org.confide.spark;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.Path;

/**
 * {@code enc://} for Hadoop's newer interface, through which Structured Streaming keeps its checkpoints.
 *
 * <p>What it adds to {@link ConfideFileSystem} is a rename that either replaces a file or fails because there is one, in one step: Spark's
 * logs rely on it, and the default looks first and then acts.
 */
public final class ConfideAbstractFileSystem extends DelegateToFileSystem {
    public ConfideAbstractFileSystem(URI uri, Configuration conf) throws IOException, URISyntaxException {
        super(uri, new ConfideFileSystem(), conf, ConfideFileSystem.SCHEME, false);
    }

    @Override
    public void renameInternal(Path from, Path to, boolean overwrite) throws IOException {
        ((ConfideFileSystem) fsImpl).move(from, to, overwrite);
    }

    @Override
    public void renameInternal(Path from, Path to) throws IOException {
        renameInternal(from, to, false);
    }
}
