package org.confide.spark;

import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.util.Base64;
import java.util.Map;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import org.apache.parquet.crypto.DecryptionKeyRetriever;
import org.apache.parquet.crypto.KeyAccessDeniedException;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;

/**
 * Opens the keys that lie, wrapped, in a Parquet file of a table with column groups, as far as this node was given their keys.
 *
 * <p>docs/formats/container.md, section 2.4. Which group a column is in, the file says, and its footer is authentic; whether this job may
 * read it, the agent has said by giving the group's key or not.
 */
final class WrappedKeys implements DecryptionKeyRetriever {
    private static final String TABLE = "table";
    private static final String GROUP = "columns/";
    private static final int NONCE_BYTES = 12;
    private static final int KEY_BYTES = 32;
    private static final int TAG_BITS = 128;
    private static final JsonMapper JSON =
            JsonMapper.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                    .build();

    private final FileKey file;

    WrappedKeys(FileKey file) {
        this.file = file;
    }

    @Override
    public byte[] getKey(byte[] metadata) {
        JsonNode material = read(metadata);
        String name = material.get("masterKeyID").asText("");
        return unwrap(wrappingKey(name), name, material.get("wrappedDEK").asText(""));
    }

    private static JsonNode read(byte[] metadata) {
        try {
            JsonNode found = JSON.readTree(new String(metadata, StandardCharsets.UTF_8));
            if (found != null
                    && found.path("keyMaterialType").asText("").equals("PKMT1")
                    && found.path("internalStorage").asBoolean(false)
                    && !found.path("doubleWrapping").asBoolean(true)
                    && found.path("masterKeyID").isTextual()
                    && found.path("wrappedDEK").isTextual()) {
                return found;
            }
        } catch (IOException notJson) {
            // Falls through to the same refusal.
        }
        throw new ParquetCryptoRuntimeException("[data-integrity] a key in an encrypted file is not one");
    }

    private byte[] wrappingKey(String name) {
        if (name.equals(TABLE)) {
            return file.key;
        }
        String group = name.startsWith(GROUP) ? name.substring(GROUP.length()) : name;
        byte[] found = name.startsWith(GROUP) ? file.groups.get(group) : null;
        if (found == null) {
            throw new KeyAccessDeniedException(
                    "[key-refused] the job was not given the key of the column group \"" + group + "\" (inputs.<name>.columns)");
        }
        return found;
    }

    private static byte[] unwrap(byte[] key, String name, String text) {
        try {
            byte[] sealed = Base64.getDecoder().decode(text);
            Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
            GCMParameterSpec nonce = new GCMParameterSpec(TAG_BITS, sealed, 0, NONCE_BYTES);
            cipher.init(Cipher.DECRYPT_MODE, new SecretKeySpec(key, "AES"), nonce);
            cipher.updateAAD(name.getBytes(StandardCharsets.UTF_8));
            byte[] found = cipher.doFinal(sealed, NONCE_BYTES, sealed.length - NONCE_BYTES);
            if (found.length == KEY_BYTES) {
                return found;
            }
        } catch (GeneralSecurityException | IllegalArgumentException changed) {
            // Falls through to the same refusal: which step failed is nobody's business.
        }
        throw new ParquetCryptoRuntimeException("[data-integrity] a key in an encrypted file does not open: changed, swapped or renamed");
    }
}
