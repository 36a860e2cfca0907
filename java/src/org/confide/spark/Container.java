package org.confide.spark;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Arrays;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/** The container format of docs/formats/container.md, version 2: its sizes, its header and one chunk at a time. Knows nothing of files. */
final class Container {
    static final int HEADER = 80;
    static final int CHUNK = 1 << 16;
    static final int TAG = 16;
    static final int SEALED = CHUNK + TAG;
    private static final long MAX_CHUNKS = 1L << 32;
    private static final int SALT_OFFSET = 16;
    private static final int COMMITMENT_OFFSET = 48;
    /** Section 3.1: magic, version 2, log2 of the chunk size, flags, reserved. */
    private static final byte[] PREFIX =
            ByteBuffer.allocate(SALT_OFFSET).put("CONFIDE2".getBytes(StandardCharsets.US_ASCII)).putShort((short) 2).put((byte) 16).array();

    private final SecretKeySpec key;
    private final byte[] header;
    private final Cipher cipher;

    Container(byte[] key, byte[] header) {
        this.key = new SecretKeySpec(key, "AES");
        this.header = header.clone();
        try {
            this.cipher = Cipher.getInstance("AES/GCM/NoPadding");
        } catch (GeneralSecurityException missing) {
            throw new IllegalStateException("confide: this JVM has no AES-GCM", missing);
        }
    }

    /** Section 3.1: what makes a container's key its own, drawn anew for each, also for a retry of the same path. */
    static byte[] newSalt() {
        byte[] salt = new byte[COMMITMENT_OFFSET - SALT_OFFSET];
        new SecureRandom().nextBytes(salt);
        return salt;
    }

    /** Section 3.1: the header of a container with {@code salt}, whose key is the one that {@code commitment} stands for. */
    static byte[] header(byte[] salt, byte[] commitment) {
        return ByteBuffer.allocate(HEADER).put(PREFIX).put(salt).put(commitment).array();
    }

    static byte[] salt(byte[] header) {
        return Arrays.copyOfRange(header, SALT_OFFSET, COMMITMENT_OFFSET);
    }

    static void checkHeader(byte[] header, String path) throws IOException {
        if (!Arrays.equals(header, 0, SALT_OFFSET, PREFIX, 0, SALT_OFFSET)) {
            throw broken(path, "the header is not that of a container");
        }
    }

    /** Section 5, step 2: the header must hold {@code commitment}, which was derived with the key, or it was sealed under another one. */
    static void checkCommitment(byte[] header, byte[] commitment, String path) throws IOException {
        if (!MessageDigest.isEqual(Arrays.copyOfRange(header, COMMITMENT_OFFSET, HEADER), commitment)) {
            throw broken(path, "it is of another key, dataset or path, or its header was changed");
        }
    }

    /** Section 4: number of chunks of a file of {@code size} bytes. */
    static long chunks(long size, String path) throws IOException {
        long body = size - HEADER;
        long count = (body + SEALED - 1) / SEALED;
        if (body < TAG || count > MAX_CHUNKS || body - (count - 1) * SEALED < (count > 1 ? TAG + 1 : TAG)) {
            throw broken(path, "no container has a size of " + size + " bytes");
        }
        return count;
    }

    /** Section 4: plaintext length of a file of {@code size} bytes; not authenticated until the final chunk is opened. */
    static long plaintextLength(long size, String path) throws IOException {
        return size - HEADER - chunks(size, path) * TAG;
    }

    /** Seals chunk {@code index}; returns the length of what was put into {@code out}. */
    int seal(long index, boolean last, byte[] plain, int length, byte[] out) throws IOException {
        try {
            return init(Cipher.ENCRYPT_MODE, index, last).doFinal(plain, 0, length, out, 0);
        } catch (GeneralSecurityException failed) {
            throw new IOException("confide: cannot seal a chunk", failed);
        }
    }

    /** Opens chunk {@code index} into {@code out}, from {@code at} on; nothing of it is there unless its tag is right. */
    int open(long index, boolean last, byte[] sealed, int length, byte[] out, int at, String path) throws IOException {
        try {
            return init(Cipher.DECRYPT_MODE, index, last).doFinal(sealed, 0, length, out, at);
        } catch (GeneralSecurityException failed) {
            Arrays.fill(out, at, at + Math.max(0, length - TAG), (byte) 0);
            throw broken(path, "chunk " + index + " does not open: the file was changed or cut");
        }
    }

    private Cipher init(int mode, long index, boolean last) throws GeneralSecurityException {
        byte[] nonce = ByteBuffer.allocate(12).putInt(7, (int) index).put(11, (byte) (last ? 1 : 0)).array();
        cipher.init(mode, key, new GCMParameterSpec(TAG * 8, nonce));
        cipher.updateAAD(header);
        return cipher;
    }

    static IOException broken(String path, String why) {
        return new IOException("[data-integrity] " + path + ": " + why);
    }
}
