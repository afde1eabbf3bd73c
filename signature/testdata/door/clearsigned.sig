-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

{"critical":{"identity":{"docker-reference":"registry.example.com/ns/app:v1"},"image":{"docker-manifest-digest":"sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f"},"type":"atomic container signature"},"optional":{"creator":"test","timestamp":1600000000}}
-----BEGIN PGP SIGNATURE-----

iQEzBAEBCgAdFiEEZTuavulkfDRiDYsHXfX1gk/xYgYFAl/uZgAACgkQXfX1gk/x
YgYqbggAnHDn771Tl1b/T9aLjhJ5E7v4eXu5xt3z9bZMFEwOh7X1mU8vkaEkbteE
29LnLtIOzxc3/2qMlyjyl83ZDBa92dq5Bx25eXsj+Uu+TRq1tUqXRfvG8rD9Seer
gWNBhqS5Zo/5Bsop52Jdrln1lu9/ZFZlhDmQkOLOhc//vRqUWNjThVbbvZ/aIw/W
RzmSy1CGS10SxyFSkSnMQJFc7Sd/RkS5mFelJPWE8Y+oGbtdY7AzdEZi4a0h9AXX
DIltNIyEd+pbxccBbcbtf3DlhPwrY4KC941NwmPBVVVCuaezyhIvg2MZbbnX0rAM
lQQznoh/2Xf2QugnRJpMIQr81vKCyQ==
=sGe8
-----END PGP SIGNATURE-----
