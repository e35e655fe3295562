//! The settings that are one of a few words. Case and surrounding spaces do not matter.

use serde::{Deserialize, Serialize};

/// Declares an enum of config words: for each variant its own word, and others it goes by.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $other:literal)*,)* }
     default $default:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The word in a config file.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $($word $(| $other)* => Ok(Self::$variant),)*
                    _ => {
                        let words = [$($word),*].join(", ");
                        Err(format!("`{text}` is not one of: {words}"))
                    }
                }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.word().into()
            }
        }
    };
}

words! {
    /// What the server is for: decides which settings are refused as unsafe.
    Environment {
        /// Everything unsafe is refused.
        Production = "production",
        /// Trials with outsiders: keys, limits and TLS are required.
        Pilot = "pilot",
        /// Anything goes.
        Benchmark = "benchmark",
    }
    default Production
}

words! {
    /// Which HTTP endpoints need a key.
    ObservabilityAuth {
        /// None.
        Disabled = "disabled",
        /// /metrics and /slo.
        MetricsAndSlo = "metrics_and_slo",
        /// All.
        All = "all",
    }
    default Disabled
}

words! {
    /// How the document cache admits.
    CacheStrategy {
        /// Least recently used goes first.
        Lru = "lru",
        /// By what was learned of accesses.
        Learned = "learned",
    }
    default Learned
}

words! {
    /// How vectors are compared.
    Distance {
        /// By angle.
        Cosine = "cosine",
        /// By straight-line distance.
        Euclidean = "euclidean" | "l2",
        /// By dot product.
        InnerProduct = "innerproduct" | "inner_product" | "dot",
    }
    default Cosine
}

words! {
    /// What a walk of the graph compares.
    Codes {
        /// 8-bit codes under cosine, vectors otherwise.
        Auto = "auto",
        /// Vectors.
        None = "none",
        /// 8-bit codes of the vectors.
        Sq8 = "sq8",
    }
    default Auto
}

words! {
    /// Where vectors are.
    VectorStorage {
        /// In memory.
        Memory = "memory",
        /// In files, read as they are needed; in memory are codes, graph and metadata.
        Nvme = "nvme",
    }
    default Memory
}

words! {
    /// When an acknowledged write is durable.
    FsyncPolicy {
        /// fdatasync before the acknowledgement.
        DataOnly = "data_only" | "dataonly",
        /// File metadata too.
        Full = "full" | "dataandmanifest" | "data_and_manifest",
        /// Acknowledge first, sync by timer.
        Periodic = "periodic",
        /// Never.
        None = "none",
    }
    default DataOnly
}

words! {
    /// What damage does at start.
    RecoveryMode {
        /// The server does not start.
        Strict = "strict",
        /// It starts with what can be read.
        BestEffort = "best_effort" | "besteffort",
    }
    default Strict
}

words! {
    /// Least level that is written to the log.
    LogLevel {
        /// Everything.
        Trace = "trace",
        /// For development.
        Debug = "debug",
        /// What happens.
        Info = "info",
        /// What should not happen.
        Warn = "warn" | "warning",
        /// What went wrong.
        Error = "error",
    }
    default Info
}

words! {
    /// Form of a log line.
    LogFormat {
        /// For people.
        Text = "text",
        /// For programs.
        Json = "json",
    }
    default Text
}
