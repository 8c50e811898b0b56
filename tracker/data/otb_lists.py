"""The sequences of the three OTB benchmarks, by the names of their folders.

`otb2013` has the 50 folders of Wu et al., "Online Object Tracking: A Benchmark", CVPR 2013. Jogging has two targets, so
there are 51 sequences. `otb100` has the 98 folders of "Object Tracking Benchmark", PAMI 2015, with two targets in
Jogging and Skating2: 100 sequences. `otb50`, which that paper calls TB-50, has 49 of these folders (50 sequences), the
harder ones. Papers use the name "OTB50" for either of the smaller lists.
"""

from __future__ import annotations

_OTB2013 = """
    Basketball Bolt Boy Car4 CarDark CarScale Coke Couple Crossing David David2 David3 Deer Dog1 Doll Dudek FaceOcc1
    FaceOcc2 Fish FleetFace Football Football1 Freeman1 Freeman3 Freeman4 Girl Ironman Jogging Jumping Lemming Liquor
    Matrix Mhyang MotorRolling MountainBike Shaking Singer1 Singer2 Skating1 Skiing Soccer Subway Suv Sylvester Tiger1
    Tiger2 Trellis Walking Walking2 Woman
"""
_OTB50 = """
    Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark CarScale ClifBar Couple Crowds
    David Deer Diving DragonBaby Dudek Football Freeman4 Girl Human3 Human4 Human6 Human9 Ironman Jump Jumping Liquor
    Matrix MotorRolling Panda RedTeam Shaking Singer2 Skating1 Skating2 Skiing Soccer Surfer Sylvester Tiger2 Trellis
    Walking Walking2 Woman
"""
_REST_OF_OTB100 = """
    Bird2 BlurCar1 BlurCar3 BlurCar4 Board Bolt2 Boy Car2 Car24 Coke Coupon Crossing Dancer Dancer2 David2 David3 Dog
    Dog1 Doll FaceOcc1 FaceOcc2 Fish FleetFace Football1 Freeman1 Freeman3 Girl2 Gym Human2 Human5 Human7 Human8 Jogging
    KiteSurf Lemming Man Mhyang MountainBike Rubik Singer1 Skater Skater2 Subway Suv Tiger1 Toy Trans Twinnings Vase
"""
#: Folders of each benchmark.
OTB_LISTS = {
    "otb50": tuple(_OTB50.split()),
    "otb2013": tuple(_OTB2013.split()),
    "otb100": tuple(sorted(_OTB50.split() + _REST_OF_OTB100.split())),
}
