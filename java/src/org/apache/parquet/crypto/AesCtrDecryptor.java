package org.apache.parquet.crypto;

import java.io.InputStream;
import java.nio.ByteBuffer;
import org.apache.parquet.format.BlockCipher;

/**
 * Takes the place of Parquet's class of this name, which decrypts pages without checking them: Confide's jar comes first on the class path.
 *
 * <p>Which algorithm a file is under stands in its {@code FileCryptoMetaData}, and nothing authenticates that (Parquet Modular Encryption,
 * "Encrypted footer"). Storage that writes {@code AES_GCM_CTR_V1} there would have pages of {@code AES_GCM_V1}, which are encrypted in
 * counter mode too, taken without their tags, and could choose what a page says whose plaintext it knows.
 */
public final class AesCtrDecryptor implements BlockCipher.Decryptor {
    private static final String REFUSED = "[data-integrity] a Parquet file says that its pages have no tags (AES_GCM_CTR_V1)";

    AesCtrDecryptor(byte[] key) {
        throw new ParquetCryptoRuntimeException(REFUSED);
    }

    @Override
    public byte[] decrypt(byte[] sealed, byte[] aad) {
        throw new ParquetCryptoRuntimeException(REFUSED);
    }

    @Override
    public ByteBuffer decrypt(ByteBuffer sealed, byte[] aad) {
        throw new ParquetCryptoRuntimeException(REFUSED);
    }

    @Override
    public byte[] decrypt(InputStream sealed, byte[] aad) {
        throw new ParquetCryptoRuntimeException(REFUSED);
    }
}
