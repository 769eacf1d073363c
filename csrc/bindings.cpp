// albert_fast._loader: the one door between Python and csrc/. Knows numpy, not torch.
#include <pybind11/pybind11.h>

#include "crc32c.h"

namespace py = pybind11;

PYBIND11_MODULE(_loader, module) {
  module.doc() = "C++ core of albert_fast: checksums, shards, and the pretraining loader.";

  module.def(
      "crc32c",
      [](const py::buffer& data, uint32_t crc) {
        const py::buffer_info info = data.request();
        if (!PyBuffer_IsContiguous(info.view(), 'C')) throw py::value_error("crc32c takes a contiguous buffer");
        const auto bytes = static_cast<size_t>(info.size * info.itemsize);
        py::gil_scoped_release release;
        return albert_fast::crc32c(info.ptr, bytes, crc);
      },
      py::arg("data"), py::arg("crc") = 0,
      "CRC32C (Castagnoli) of a contiguous buffer, continuing from `crc` (0 at the start).");
}
