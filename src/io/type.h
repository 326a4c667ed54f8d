/* The element types of tensors in files, and their conversion from and to the arrays in memory. */
#ifndef FAVOR_IO_TYPE_H
#define FAVOR_IO_TYPE_H

#include <favor/favor_io.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are converted as little-endian numbers");

/* Bytes of an element in memory. */
size_t type_precision_bytes(enum favor_precision precision);

/* Are elements of the file and of the memory the same bytes? */
bool type_is_native(enum favor_type type, enum favor_precision precision);

/* n elements of a file to float or double, rounded to nearest where the file's type is wider. */
void type_decode(enum favor_type type, enum favor_precision precision, int64_t n, const void *from, void *to);

/* n floats or doubles to elements of a file, rounded to nearest. False where a finite number became infinite. */
bool type_encode(enum favor_type type, enum favor_precision precision, int64_t n, const void *from, void *to);

#endif
