//! The metric of a collection: its word in a configuration, its score, and the metric by which documents are linked.

/// The metric of a collection, fixed when its data directory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Angle between vectors; they are stored scaled to unit length.
    Cosine,
    /// Dot product of the vectors as sent.
    InnerProduct,
    /// Straight-line distance of the vectors as sent.
    Euclidean,
}

impl Metric {
    /// The configuration word, as in `hnsw.distance`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::InnerProduct => "innerproduct",
            Self::Euclidean => "euclidean",
        }
    }

    /// The metric of a configuration word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Cosine, Self::InnerProduct, Self::Euclidean].into_iter().find(|m| m.word() == word)
    }

    /// The score that a client sees for this distance; larger is nearer.
    #[must_use]
    pub fn score(self, distance: f32) -> f32 {
        match self {
            // Rounding may carry the product of unit vectors past 1.
            Self::Cosine => (-distance).clamp(-1.0, 1.0),
            Self::InnerProduct => -distance,
            Self::Euclidean => 1.0 / (1.0 + distance.max(0.0).sqrt()),
        }
    }
}

impl Metric {
    /// The metric by which documents are linked to one another.
    ///
    /// Under the inner product, the longest vectors are nearest to everything: linked by it,
    /// lists fill up with them, and no list leads to the short ones. Straight-line neighbours
    /// lead everywhere, and a walk that climbs the inner product along them finds its maximum:
    /// on the hull of the points, the neighbour with a larger product is among them.
    #[must_use]
    pub const fn for_linking(self) -> Self {
        match self {
            Self::Cosine => Self::Cosine,
            Self::InnerProduct | Self::Euclidean => Self::Euclidean,
        }
    }
}
