package org.confide.spark;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;

/**
 * {@code enc:///folder/file}: the containers of {@code file:///folder/file} as if they were plain files.
 *
 * <p>Lengths and offsets are plaintext ones, so that every Hadoop reader splits and seeks as usual. Keys come from the agent by path:
 * only files that a verified manifest lists can be read, only this run's outputs can be written. Nothing is ever read or written as
 * plaintext. Appending is refused: a finished container is never changed. Inputs in remote storages are read by ranges from the agent.
 */
public final class ConfideFileSystem extends FileSystem {
    static final String SCHEME = "enc";
    /** The dataset's manifest (confide.data.manifest) is not a data file and not a container. */
    private static final String MANIFEST = "_confide.json";

    private final LocalFiles local = new LocalFiles();

    @Override
    public String getScheme() {
        return SCHEME;
    }

    @Override
    public URI getUri() {
        return URI.create(SCHEME + ":///");
    }

    @Override
    public void initialize(URI name, Configuration conf) throws IOException {
        super.initialize(name, conf);
        local.initialize(URI.create("file:///"), conf);
        setConf(conf);
    }

    private Path below(Path path) {
        checkPath(path);
        return new Path("file", null, absolute(path).toUri().getPath());
    }

    private Path absolute(Path path) {
        return path.isAbsolute() ? path : new Path(getWorkingDirectory(), path);
    }

    private static String key(Path below) {
        return below.toUri().getPath();
    }

    private FileStatus above(FileStatus found) throws IOException {
        Path path = new Path(SCHEME, null, found.getPath().toUri().getPath());
        InputFiles.checked(found);
        long length = found.isDirectory() ? 0 : Container.plaintextLength(found.getLen(), key(found.getPath()));
        // Without its owner and permissions: Hadoop asks a process of `ls` for them, one a file, and nobody here looks at them.
        return new FileStatus(
                length, found.isDirectory(), found.getReplication(), found.getBlockSize(), found.getModificationTime(), path);
    }

    @Override
    public FSDataInputStream open(Path path, int bufferSize) throws IOException {
        Path below = below(path);
        FileStatus status = status(below);
        if (status.isDirectory()) {
            throw new FileNotFoundException(path + " is a folder");
        }
        InputFiles.checked(status);
        FSDataInputStream file = RemoteFiles.holds(below) ? RemoteFiles.open(below, statistics) : local.open(below, bufferSize);
        try {
            return new FSDataInputStream(new ContainerInput(file, status.getLen(), key(below)));
        } catch (IOException | RuntimeException failed) {
            file.close();
            throw failed;
        }
    }

    @Override
    public FSDataOutputStream create(
            Path path, FsPermission permission, boolean overwrite, int bufferSize, short replication, long blockSize, Progressable progress)
            throws IOException {
        Path below = below(path);
        byte[] salt = Container.newSalt();
        FileKey key = FileKey.ofContainer("write-key", key(below), salt);
        FSDataOutputStream file = local.create(below, overwrite, bufferSize, replication, blockSize, progress);
        return new FSDataOutputStream(new ContainerOutput(file, key.key, Container.header(salt, key.commitment)), null); // the file below counts for Spark
    }

    @Override
    public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) throws IOException {
        throw new UnsupportedOperationException("confide: a container is never changed after it was written");
    }

    @Override
    public boolean rename(Path from, Path to) throws IOException {
        return Uninterrupted.call(() -> {
            OutputFiles.announceRename(below(from), below(to));
            return local.rename(below(from), below(to));
        });
    }

    /** Moves a file in one step: over what is at {@code to}, or failing if there is something. */
    void move(Path from, Path to, boolean overwrite) throws IOException {
        java.nio.file.Path source = java.nio.file.Path.of(key(below(from)));
        java.nio.file.Path target = java.nio.file.Path.of(key(below(to)));
        if (!overwrite && Files.exists(target)) {
            throw new FileAlreadyExistsException(to + " exists");
        }
        Uninterrupted.call(() -> {
            OutputFiles.announceRename(below(from), below(to));
            if (overwrite) {
                return Files.move(source, target, StandardCopyOption.ATOMIC_MOVE);
            }
            try {
                Files.createLink(target, source);
            } catch (java.nio.file.FileAlreadyExistsException exists) {
                throw new FileAlreadyExistsException(to + " exists");
            }
            Files.delete(source);
            return target;
        });
    }

    @Override
    public boolean delete(Path path, boolean recursive) throws IOException {
        return Uninterrupted.call(() -> {
            OutputFiles.announceDelete(below(path));
            return local.delete(below(path), recursive);
        });
    }

    @Override
    public FileStatus[] listStatus(Path path) throws IOException {
        Path below = below(path);
        FileStatus[] listed = RemoteFiles.holds(below) ? RemoteFiles.list(below) : InputFolder.listing(local, below);
        Set<String> known = OutputFiles.known(below);
        List<FileStatus> found = new ArrayList<>();
        for (FileStatus status : listed != null ? listed : shown(below)) {
            if (!MANIFEST.equals(status.getPath().getName()) && !isUnfinished(status.getPath().getName())) {
                found.add(above(status));
            }
        }
        OutputFiles.requireShown(below, known, found.stream().map(status -> status.getPath().getName()).collect(Collectors.toSet()));
        return found.toArray(new FileStatus[0]);
    }

    private FileStatus[] shown(Path below) throws IOException {
        return InputFiles.listed(below, InputFiles.found(below, () -> local.listStatus(below)));
    }

    /** What Spark's CheckpointFileManager is writing, or was when its query was stopped: no container yet, and nobody's to list. */
    static boolean isUnfinished(String name) {
        return name.startsWith(".") && name.endsWith(".tmp");
    }

    @Override
    public FileStatus getFileStatus(Path path) throws IOException {
        Path below = below(path);
        return above(status(below));
    }

    private FileStatus status(Path below) throws IOException {
        if (RemoteFiles.holds(below)) {
            return RemoteFiles.status(below);
        }
        return InputFiles.found(below, () -> OutputFiles.found(below, () -> local.getFileStatus(below)));
    }

    @Override
    public boolean mkdirs(Path path, FsPermission permission) throws IOException {
        return local.mkdirs(below(path));
    }

    @Override
    public void setWorkingDirectory(Path path) {
        local.setWorkingDirectory(below(path));
    }

    @Override
    public Path getWorkingDirectory() {
        return new Path(SCHEME, null, local.getWorkingDirectory().toUri().getPath());
    }
}
