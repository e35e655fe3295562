//! The codec of the service: prost's, after a check of the shape of a message. A message that exceeds a bound is
//! INVALID_ARGUMENT and is not decoded; bytes that are not a message are INTERNAL, with a text of at most 200 bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;
use tonic_types::{ErrorDetails, StatusExt};

use super::shape::{self, Places, Refusal};

/// Longest text about a message that can't be decoded, in bytes.
const TEXT_BYTES_MAX: usize = 200;

/// Metadata key that marks the status of a message which no handler has seen, so that the gateway counts it; the
/// gateway removes the key.
pub const UNREAD: &str = "kyrodb-unread";

/// The codec of the service.
#[derive(Clone, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as tonic::codec::Codec>::Encoder;
    type Decoder = Checked<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Checked { places: shape::places::<U>(), message: PhantomData }
    }
}

/// Decodes messages whose shape is within the bounds.
#[derive(Debug)]
pub struct Checked<U> {
    places: Option<Places>,
    message: PhantomData<U>,
}

impl<U: Message + Default> Decoder for Checked<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use prost::bytes::Buf;
        if let Some(places) = self.places {
            // A message is contiguous.
            let message = encoded.chunk();
            debug_assert_eq!(message.len(), encoded.remaining(), "a message in pieces");
            shape::check(message, places).map_err(status)?;
        }
        U::decode(encoded).map(Some).map_err(|error| undecodable(&error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Malformed => undecodable("failed to decode Protobuf message"),
        Refusal::Beyond(field, why) => refused(field, why),
    }
}

fn undecodable(why: &str) -> Status {
    Status::internal(&why[..why.floor_char_boundary(TEXT_BYTES_MAX)])
}

/// The status of a message that is refused before it is decoded.
pub fn refused(field: &'static str, why: String) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation(field, &why);
    details.set_error_info("INVALID_ARGUMENT", "kyrodb", []);
    let message = format!("{field}: {why}");
    let mut status = Status::with_error_details(tonic::Code::InvalidArgument, message, details);
    status.metadata_mut().insert(UNREAD, tonic::metadata::MetadataValue::from_static("1"));
    status
}
