//! The calls of the client that its Rust interface doesn't have: taking many records at once, which costs half of
//! taking them one by one; waiting for what was sent without looking again and again; and asking for the ids of topics.
//!
//! The only file with unsafe code. Every pointer is used within the call that obtained it, save the queue of a
//! consumer, which is released before its consumer.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer;

use crate::client::Reports;

/// Records at the most that one call takes.
const TAKE_MAX: usize = 4096;

/// A consumer whose records are taken in batches. Any thread may use it; one at a time takes records.
pub(crate) struct Fetcher {
    consumer: BaseConsumer<Reports>,
    queue: *mut native::rd_kafka_queue_t,
}

// SAFETY: the client's handles may be used from any thread at any time, says its documentation.
unsafe impl Send for Fetcher {}
// SAFETY: as above.
unsafe impl Sync for Fetcher {}

/// What a consumer has to say.
pub(crate) enum Fetched<'a> {
    /// A record.
    Record(FetchedRecord<'a>),
    /// Everything below this offset that is committed was given.
    End { topic: &'a str, partition: i32, offset: u64 },
    /// A partition can't be read on, or nothing can (an empty topic).
    Failed { topic: &'a str, partition: i32, code: RDKafkaErrorCode, text: String },
}

/// A record where the client keeps it.
pub(crate) struct FetchedRecord<'a> {
    message: &'a native::rd_kafka_message_t,
}

impl Fetcher {
    pub(crate) fn new(consumer: BaseConsumer<Reports>) -> Self {
        // SAFETY: the handle lives as long as the consumer.
        let queue = unsafe { native::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Self { consumer, queue }
    }

    pub(crate) fn consumer(&self) -> &BaseConsumer<Reports> {
        &self.consumer
    }

    /// Ends the wait of the thread that takes records.
    pub(crate) fn wake(&self) {
        // SAFETY: the queue was obtained from this consumer and is not released yet.
        unsafe { native::rd_kafka_queue_yield(self.queue) }
    }

    /// Takes what is there, or what comes first within the time.
    pub(crate) fn take(&self, wait: Duration, mut each: impl FnMut(Fetched<'_>)) {
        let mut messages = vec![ptr::null_mut::<native::rd_kafka_message_t>(); TAKE_MAX];
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is this consumer's, and there is room for as many messages as are said.
        let call = |wait_ms: i32, room: &mut [*mut native::rd_kafka_message_t]| unsafe {
            let taken = native::rd_kafka_consume_batch_queue(self.queue, wait_ms, room.as_mut_ptr(), room.len());
            usize::try_from(taken).unwrap_or(0)
        };
        // IMPORTANT: the client waits until there are as many as there is room for, or the time is over. So the first
        // one is waited for alone.
        let (first, more) = messages.split_at_mut(1);
        let taken = call(wait_ms, first) + if first.first().is_some_and(|m| !m.is_null()) { call(0, more) } else { 0 };
        for message in messages.iter().take(taken) {
            // SAFETY: the client gave a message, which is ours until it is destroyed below.
            each(unsafe { fetched(&**message) });
            // SAFETY: once, and not used afterwards.
            unsafe { native::rd_kafka_message_destroy(*message) };
        }
    }

    /// The end of a partition as the last fetch saw it, without asking anybody; what is open counts.
    pub(crate) fn known_end(&self, topic: &str, partition: i32) -> Option<u64> {
        let topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (0_i64, 0_i64);
        // SAFETY: the handle is live, and the pointers are to two integers of ours.
        let error = unsafe {
            let client = self.consumer.client().native_ptr();
            native::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &mut low, &mut high)
        };
        let known = error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        known.then(|| u64::try_from(high).ok()).flatten()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // SAFETY: once, before the consumer is dropped.
        unsafe { native::rd_kafka_queue_destroy(self.queue) }
    }
}

/// # Safety
/// The message is one that the client gave and that was not destroyed.
unsafe fn fetched<'a>(message: &'a native::rd_kafka_message_t) -> Fetched<'a> {
    // SAFETY: a topic's name lives as long as the topic, which the message holds.
    let topic = || match message.rkt.is_null() {
        true => "",
        false => unsafe { CStr::from_ptr(native::rd_kafka_topic_name(message.rkt)) }.to_str().unwrap_or_default(),
    };
    let partition = message.partition;
    match RDKafkaErrorCode::from(message.err) {
        RDKafkaErrorCode::NoError => Fetched::Record(FetchedRecord { message }),
        RDKafkaErrorCode::PartitionEOF => {
            Fetched::End { topic: topic(), partition, offset: u64::try_from(message.offset).unwrap_or(0) }
        }
        code => {
            // SAFETY: the text of an error lives as long as the message.
            let text = unsafe { native::rd_kafka_message_errstr(message) };
            let text = match text.is_null() {
                true => String::new(),
                // SAFETY: as above; it ends with a zero.
                false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
            };
            Fetched::Failed { topic: topic(), partition, code, text }
        }
    }
}

impl FetchedRecord<'_> {
    pub(crate) fn topic(&self) -> &str {
        // SAFETY: a record has a topic, whose name lives as long as the record.
        unsafe { CStr::from_ptr(native::rd_kafka_topic_name(self.message.rkt)) }.to_str().unwrap_or_default()
    }

    /// Equal for records of the same topic, and cheaper than its name.
    pub(crate) fn topic_id(&self) -> usize {
        self.message.rkt as usize
    }

    pub(crate) fn partition(&self) -> i32 {
        self.message.partition
    }

    pub(crate) fn offset(&self) -> u64 {
        u64::try_from(self.message.offset).unwrap_or(0)
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        // SAFETY: the client says where the bytes are and how many, for as long as the message lives.
        unsafe { bytes(self.message.key, self.message.key_len) }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.message.payload, self.message.len) }
    }

    /// Milliseconds since 1970, where the record says.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live.
        let time = unsafe { native::rd_kafka_message_timestamp(self.message, &mut kind) };
        (time >= 0).then_some(time)
    }

    pub(crate) fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is live, and the headers stay its own.
        let error = unsafe { native::rd_kafka_message_headers(self.message, &mut headers) };
        let mut all = vec![];
        if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return all;
        }
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the client says whether there is a header of this number, and where its parts are.
            unsafe {
                let error = native::rd_kafka_header_get_all(headers, all.len(), &mut name, &mut value, &mut size);
                if error != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return all;
                }
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                all.push((name, bytes(value, size).map(<[u8]>::to_vec)));
            }
        }
    }
}

/// Has everything sent that waits for company, and waits until all of it was taken or given up; whether that is so.
pub(crate) fn flush(producer: &impl Producer<Reports>, wait: Duration) -> bool {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the handle lives as long as the producer, and may be used from any thread.
    let error = unsafe { native::rd_kafka_flush(producer.client().native_ptr(), wait_ms) };
    error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// # Safety
/// There are `len` bytes where the pointer is not null, and they live as long as the answer is used.
unsafe fn bytes<'a>(at: *const std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    if at.is_null() {
        return None;
    }
    // SAFETY: what the caller promises.
    Some(unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) })
}

/// What a cluster says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicFacts {
    pub(crate) name: String,
    /// Another one for every topic, also of the same name; 0 where the cluster is too old to have them.
    pub(crate) id: u128,
    pub(crate) partitions: Vec<i32>,
    pub(crate) error: Option<RDKafkaErrorCode>,
}

/// Asks for some topics.
pub(crate) fn describe_topics(
    client: &Arc<BaseConsumer<Reports>>,
    topics: &[String],
    wait: Duration,
) -> Result<Vec<TopicFacts>, RDKafkaErrorCode> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(topic.as_str()).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let client = client.client().native_ptr();
    // SAFETY: everything that is made here is released here; the names outlive the call; the event is released after
    // what is in it was copied.
    unsafe {
        let queue = native::rd_kafka_queue_new(client);
        let options =
            native::rd_kafka_AdminOptions_new(client, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        native::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, ptr::null_mut(), 0);
        let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        native::rd_kafka_DescribeTopics(client, collection, options, queue);
        native::rd_kafka_TopicCollection_destroy(collection);
        native::rd_kafka_AdminOptions_destroy(options);
        let event = native::rd_kafka_queue_poll(queue, wait_ms);
        let facts = match event.is_null() {
            true => Err(RDKafkaErrorCode::OperationTimedOut),
            false => match RDKafkaErrorCode::from(native::rd_kafka_event_error(event)) {
                RDKafkaErrorCode::NoError => Ok(facts(event)),
                code => Err(code),
            },
        };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        facts
    }
}

/// # Safety
/// The event is the live answer to a question for topics.
unsafe fn facts(event: *mut native::rd_kafka_event_t) -> Vec<TopicFacts> {
    // SAFETY: what the caller promises; the client says how many there are.
    unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let topics = if count == 0 { &[] } else { std::slice::from_raw_parts(topics, count) };
        topics.iter().map(|topic| fact(*topic)).collect()
    }
}

/// # Safety
/// The description lives.
unsafe fn fact(topic: *const native::rd_kafka_TopicDescription_t) -> TopicFacts {
    // SAFETY: what the caller promises; what the client points to lives as long as the description.
    unsafe {
        let error = native::rd_kafka_TopicDescription_error(topic);
        let error = (!error.is_null()).then(|| RDKafkaErrorCode::from(native::rd_kafka_error_code(error)));
        let mut count = 0;
        let partitions = native::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let partitions = if count == 0 { &[] } else { std::slice::from_raw_parts(partitions, count) };
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let id = match id.is_null() {
            true => 0,
            false => {
                let most = native::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
                let least = native::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
                u128::from(most) << 64 | u128::from(least)
            }
        };
        TopicFacts {
            name: CStr::from_ptr(native::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned(),
            id,
            partitions: partitions.iter().map(|p| native::rd_kafka_TopicPartitionInfo_partition(*p)).collect(),
            error: error.filter(|code| *code != RDKafkaErrorCode::NoError),
        }
    }
}
