package org.confide.spark;

import java.io.IOException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.crypto.DecryptionPropertiesFactory;
import org.apache.parquet.crypto.EncryptionPropertiesFactory;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import org.apache.parquet.crypto.ParquetCipher;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.hadoop.api.WriteSupport;

/**
 * Every Parquet file that Spark reads or writes is encrypted under the key that the agent gives for its path, or is not opened.
 *
 * <p>docs/formats/container.md, section 2.3: AES_GCM_V1, one 256-bit key for footer and columns, encrypted footer, AAD prefix not
 * stored; of a table with column groups (section 2.4) a key for each column, wrapped in the file. Parquet files under {@code enc://}
 * are plain inside: the container around them is encrypted.
 */
public final class ConfideCryptoFactory implements EncryptionPropertiesFactory, DecryptionPropertiesFactory {
    @Override
    public FileEncryptionProperties getFileEncryptionProperties(Configuration conf, Path file, WriteSupport.WriteContext context) {
        if (insideContainer(file)) {
            return null;
        }
        FileKey key = key("write-key", file);
        return FileEncryptionProperties.builder(key.key)
                .withAlgorithm(ParquetCipher.AES_GCM_V1)
                .withAADPrefix(key.aadPrefix)
                .withoutAADPrefixStorage()
                .build();
    }

    @Override
    public FileDecryptionProperties getFileDecryptionProperties(Configuration conf, Path file) {
        if (insideContainer(file)) {
            return null;
        }
        FileKey key = key("read-key", file);
        if (key.groups != null) {
            return FileDecryptionProperties.builder().withKeyRetriever(new WrappedKeys(key)).build();
        }
        return FileDecryptionProperties.builder().withFooterKey(key.key).withAADPrefix(key.aadPrefix).build();
    }

    private static boolean insideContainer(Path file) {
        return ConfideFileSystem.SCHEME.equals(file.toUri().getScheme());
    }

    private static FileKey key(String op, Path file) {
        try {
            return FileKey.ofParquet(op, file);
        } catch (IOException refused) {
            throw new ParquetCryptoRuntimeException("confide: no key for " + file.getName() + ": " + refused.getMessage(), refused);
        }
    }
}
