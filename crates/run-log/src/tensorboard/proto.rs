//! The part of TensorFlow's event.proto, summary.proto and tensor.proto that a training run needs.

use super::seconds_now;
use image::{ExtendedColorType, ImageEncoder, RgbImage, codecs::png::PngEncoder};
use prost::{Enumeration, Message, Oneof};
use std::io;

/// One thing that happened, at one step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum What {
    /// The first event of a file: `brain.Event:2`.
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionLog {
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum Status {
    Unspecified = 0,
    /// Makes TensorBoard drop what it has read about this event's step and later ones.
    Start = 1,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    #[prost(oneof = "Content", tags = "2, 4, 8")]
    pub content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Content {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Image {
    #[prost(int32, tag = "1")]
    pub height: i32,
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// 3 is RGB.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_image_string: Vec<u8>,
}

/// Says which of TensorBoard's plugins shows a value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PluginData {
    #[prost(string, tag = "1")]
    pub plugin_name: String,
}

/// A TensorProto without a shape: one value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
}

/// `DT_STRING` of types.proto.
const DT_STRING: i32 = 7;

impl Event {
    pub fn now(step: i64, what: What) -> Event {
        Event { wall_time: seconds_now(), step, what: Some(what) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl What {
    fn value(tag: String, metadata: Option<Metadata>, content: Content) -> What {
        What::Summary(Summary { value: vec![Value { tag, metadata, content: Some(content) }] })
    }

    pub fn scalar(tag: String, value: f64) -> What {
        What::value(tag, None, Content::Scalar(value as f32))
    }

    pub fn scalars(numbers: Vec<(String, f64)>) -> What {
        let value = |(tag, number)| Value { tag, metadata: None, content: Some(Content::Scalar(number as f32)) };
        What::Summary(Summary { value: numbers.into_iter().map(value).collect() })
    }

    pub fn image(tag: String, image: &RgbImage) -> io::Result<What> {
        let (width, height) = image.dimensions();
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8)
            .map_err(io::Error::other)?;
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string: png };
        Ok(What::value(tag, None, Content::Image(image)))
    }

    pub fn text(tag: &str, text: &str) -> What {
        let plugin_data = Some(PluginData { plugin_name: "text".to_owned() });
        let tensor = Tensor { dtype: DT_STRING, string_val: vec![text.as_bytes().to_vec()] };
        What::value(tag.to_owned(), Some(Metadata { plugin_data }), Content::Tensor(tensor))
    }

    pub fn session(status: Status) -> What {
        What::SessionLog(SessionLog { status: status as i32 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    /// What TensorBoard 2.21's own `RecordWriter` makes of the five events below.
    const WRITTEN_BY_TENSORBOARD: &str = "\
        1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c2300000000000000b09f\
        774309000000000000044010fa012a150a130a0c6c6f73732f63757272656e74150000003e982d80fe100000000000000095\
        fbfe18090000000000000c4010fb013a0208017e558a132800000000000000ff70164a0900000000000012402a1d0a1b0a06\
        636f6e6669674207080742032a782a4a080a060a04746578744cf1d93d2800000000000000ff70164a090000000000001640\
        10fa012a1a0a180a0973616d706c65732f30220b0802100318032203504e4768f1a42a";

    #[test]
    fn events_have_the_bytes_that_tensorboard_itself_writes() {
        let image = Image { height: 2, width: 3, colorspace: 3, encoded_image_string: b"PNG".to_vec() };
        let events = [
            (0, What::FileVersion("brain.Event:2".to_owned())),
            (250, What::scalar("loss/current".to_owned(), 0.125)),
            (251, What::session(Status::Start)),
            (0, What::text("config", "*x*")),
            (250, What::value("samples/0".to_owned(), None, Content::Image(image))),
        ];
        let mut file = Vec::new();
        for (index, (step, what)) in events.into_iter().enumerate() {
            let event = Event { wall_time: 1.5 + index as f64, step, what: Some(what) };
            frame::write(&mut file, &event.bytes()).expect("memory has room");
        }
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, WRITTEN_BY_TENSORBOARD);
    }
}
