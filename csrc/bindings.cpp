// albert_fast._loader: the Python bindings of csrc/. Depends on numpy, not on torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "corpus.h"
#include "crc32c.h"
#include "loader.h"
#include "shard.h"

namespace py = pybind11;

namespace albert_fast {
namespace {

// Interval at which a waiting next() checks for Ctrl-C.
constexpr double kSecondsBetweenSignalChecks = 0.1;

// A numpy view of an array of a batch; `owner` keeps the batch alive.
template <typename T>
py::array_t<T> view(T* data, uint32_t count, const py::capsule& owner) {
  return py::array_t<T>({static_cast<py::ssize_t>(count)}, {static_cast<py::ssize_t>(sizeof(T))}, data, owner);
}

py::tuple to_tuple(std::shared_ptr<Batch> batch, const LoaderConfig& config) {
  Batch& b = *batch;
  auto holder = std::make_unique<std::shared_ptr<Batch>>(std::move(batch));
  const py::capsule owner(holder.get(), [](void* held) { delete static_cast<std::shared_ptr<Batch>*>(held); });
  static_cast<void>(holder.release());
  const uint32_t tokens = config.tokens_per_batch, sequences = config.max_sequences;
  const uint32_t predictions = config.predictions_per_batch;
  return py::make_tuple(view(b.input_ids, tokens, owner), view(b.token_type_ids, tokens, owner),
                        view(b.position_ids, tokens, owner), view(b.cu_seqlens, config.sequence_slots() + 1, owner),
                        view(b.masked_lm_positions, predictions, owner), view(b.masked_lm_ids, predictions, owner),
                        view(b.masked_lm_weights, predictions, owner), view(b.sentence_order_labels, sequences, owner),
                        view(b.sentence_order_weights, sequences, owner), b.index, b.epoch, b.num_tokens,
                        b.num_sequences, b.num_predictions);
}

py::tuple next(Loader& loader) {
  for (;;) {
    std::shared_ptr<Batch> batch;
    {
      const py::gil_scoped_release release;
      batch = loader.next(kSecondsBetweenSignalChecks);
    }
    if (batch) return to_tuple(std::move(batch), loader.config());
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

py::dict to_dict(const Statistics& s) {
  py::dict closed_by;
  closed_by["tokens"] = s.closed_by[static_cast<size_t>(ClosedBy::kTokens)];
  closed_by["sequences"] = s.closed_by[static_cast<size_t>(ClosedBy::kSequences)];
  closed_by["predictions"] = s.closed_by[static_cast<size_t>(ClosedBy::kPredictions)];
  closed_by["end_of_group"] = s.closed_by[static_cast<size_t>(ClosedBy::kEndOfGroup)];
  using py::literals::operator""_a;
  return py::dict("batches"_a = s.batches, "sequences"_a = s.sequences, "tokens"_a = s.tokens,
                  "unused_tokens"_a = s.unused_tokens, "predictions"_a = s.predictions,
                  "unused_predictions"_a = s.unused_predictions, "dropped_tokens"_a = s.dropped_tokens,
                  "closed_by"_a = closed_by);
}

}  // namespace
}  // namespace albert_fast

PYBIND11_MODULE(_loader, module) {
  using namespace albert_fast;
  module.doc() = "C++ core of albert_fast: checksums, shards, and the pretraining loader.";

  module.def(
      "crc32c",
      [](const py::buffer& data, uint32_t crc) {
        const py::buffer_info info = data.request();
        if (!PyBuffer_IsContiguous(info.view(), 'C'))
          throw py::value_error("crc32c needs a contiguous buffer; copy it first");
        const auto bytes = static_cast<size_t>(info.size * info.itemsize);
        py::gil_scoped_release release;
        return albert_fast::crc32c(info.ptr, bytes, crc);
      },
      py::arg("data"), py::arg("crc") = 0,
      "CRC32C (Castagnoli) of a contiguous buffer, continuing from `crc` (0 at the start).");

  module.def("check_shard", &check_shard, py::arg("path"), py::call_guard<py::gil_scoped_release>(),
             "Verifies every byte of a shard; raises RuntimeError with the file and the offset.");

  py::class_<LoaderConfig>(module, "LoaderConfig", "Settings of batching and masking; validated by Loader.")
      .def(py::init<>())
      .def_readwrite("tokens_per_batch", &LoaderConfig::tokens_per_batch)
      .def_readwrite("max_seq_length", &LoaderConfig::max_seq_length)
      .def_readwrite("max_sequences", &LoaderConfig::max_sequences)
      .def_readwrite("predictions_per_batch", &LoaderConfig::predictions_per_batch)
      .def_readwrite("max_predictions", &LoaderConfig::max_predictions)
      .def_readwrite("max_ngram", &LoaderConfig::max_ngram)
      .def_readwrite("masked_lm_millionths", &LoaderConfig::masked_lm_millionths)
      .def_readwrite("short_seq_millionths", &LoaderConfig::short_seq_millionths)
      .def_readwrite("sentence_order", &LoaderConfig::sentence_order)
      .def_readwrite("seed", &LoaderConfig::seed)
      .def("check", &LoaderConfig::check, "Raises ValueError if a setting is out of range.")
      .def("sequence_slots", &LoaderConfig::sequence_slots, "N: slots for examples and padding sequences.")
      .def("budget", &budget, py::arg("length"), "Tokens to mask of `length`, special tokens included.");

  py::class_<Corpus, std::shared_ptr<Corpus>>(module, "Corpus", "Validated shards as one list of pages.")
      .def(py::init<const std::vector<std::string>&>(), py::arg("paths"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("num_tokens", &Corpus::num_tokens)
      .def_property_readonly("num_sentences", &Corpus::num_sentences)
      .def_property_readonly("num_documents", &Corpus::num_documents)
      .def_property_readonly("num_pages", &Corpus::num_pages)
      .def_property_readonly("fingerprint", &Corpus::fingerprint)
      .def_property_readonly("vocab_size", [](const Corpus& c) { return c.header().vocab_size; })
      .def_property_readonly("token_bytes", [](const Corpus& c) { return c.header().token_bytes; })
      .def_property_readonly("cls_id", [](const Corpus& c) { return c.header().cls_id; })
      .def_property_readonly("sep_id", [](const Corpus& c) { return c.header().sep_id; })
      .def_property_readonly("mask_id", [](const Corpus& c) { return c.header().mask_id; })
      .def_property_readonly("unk_id", [](const Corpus& c) { return c.header().unk_id; })
      .def_property_readonly("pad_id", [](const Corpus& c) { return c.header().pad_id; })
      .def_property_readonly("vocabulary_fingerprint", [](const Corpus& c) {
        const auto& bytes = c.header().fingerprint;
        return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });

  py::class_<Loader, std::unique_ptr<Loader, LoaderDeleter>>(
      module, "Loader", "The stream of micro-batches of one rank; wrapped by albert_fast.data.batches.")
      .def(
          py::init([](const std::shared_ptr<Corpus>& corpus, const LoaderConfig& config, uint64_t index, uint64_t epoch,
                      uint32_t group, uint64_t batch, uint64_t rank, uint64_t world_size, uint32_t threads) {
            const Cursor start{index, epoch, group, batch};
            return new Loader(corpus, config, start, rank, world_size, threads);  // the holder owns it
          }),
          py::kw_only(), py::arg("corpus"), py::arg("config"), py::arg("index"), py::arg("epoch"), py::arg("group"),
          py::arg("batch"), py::arg("rank"), py::arg("world_size"), py::arg("threads"))
      .def("next", &next)
      .def("cursor",
           [](const Loader& loader) {
             const Cursor c = loader.cursor();
             return py::make_tuple(c.index, c.epoch, c.group, c.batch);
           })
      .def("statistics", [](const Loader& loader) { return to_dict(loader.statistics()); })
      .def("close", &Loader::close, py::call_guard<py::gil_scoped_release>());
}
